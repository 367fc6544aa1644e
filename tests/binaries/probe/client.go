package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func tryAll(targets []string, timeout time.Duration) error {
	var all sync.WaitGroup
	for _, target := range targets {
		kind, address, err := split(target)
		if err != nil {
			return err
		}
		all.Go(func() { attempt(target, kind, address, timeout) })
	}
	all.Wait()
	return nil
}

func attempt(target, kind, address string, timeout time.Duration) {
	began := time.Now()
	by, err := once(kind, address, began.Add(timeout))
	say(event{
		Target: target, Began: began.UnixMicro(), Ended: time.Now().UnixMicro(), OK: err == nil, By: by, Why: reason(err),
	})
}

func once(kind, address string, deadline time.Time) (string, error) {
	network := "tcp4"
	if kind == "udp" {
		network = "udp4"
	}
	dialer := net.Dialer{Deadline: deadline}
	connection, err := dialer.Dial(network, address)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if err := connection.SetDeadline(deadline); err != nil {
		return "", err
	}
	switch kind {
	case "connect":
		return "", nil
	case "tcp":
		if _, err := fmt.Fprintln(connection, "who"); err != nil {
			return "", err
		}
		by, err := bufio.NewReader(connection).ReadString('\n')
		return strings.TrimSpace(by), err
	case "udp":
		if _, err := fmt.Fprint(connection, "who"); err != nil {
			return "", err
		}
		buffer := make([]byte, 256)
		n, err := connection.Read(buffer)
		return string(buffer[:n]), err
	}
	return "", fmt.Errorf("%q is no kind of attempt", kind)
}

func follow(target string, every, timeout time.Duration) error {
	kind, address, err := split(target)
	if err != nil {
		return err
	}
	if kind == "held" || kind == "pushed" || kind == "datagram" {
		return hold(target, kind, address, every, timeout)
	}
	for range time.Tick(every) {
		// Side by side: one that waits in vain must not hold up the next.
		go attempt(target, kind, address, timeout)
	}
	return nil
}

// One flow for all the time: says each answer, and each timeout without any.
func hold(target, kind, address string, every, timeout time.Duration) error {
	network := "tcp4"
	if kind == "datagram" {
		network = "udp4"
	}
	connection, err := net.DialTimeout(network, address, timeout)
	if err != nil {
		now := time.Now().UnixMicro()
		say(event{Target: target, Began: now, Ended: now, Why: reason(err)})
		return err
	}
	var last atomic.Int64
	last.Store(time.Now().UnixMicro())
	go watch(target, &last, timeout)
	go ask(connection, kind, every)
	buffer := make([]byte, 256)
	for {
		n, err := connection.Read(buffer)
		now := time.Now().UnixMicro()
		if err != nil {
			say(event{Target: target, Began: last.Load(), Ended: now, Why: reason(err)})
			if kind == "datagram" {
				// The connection is none: a refusal now says nothing about the next one.
				continue
			}
			return err
		}
		name, _, _ := strings.Cut(string(buffer[:n]), "\n")
		say(event{Target: target, Began: last.Swap(now), Ended: now, OK: true, By: name})
	}
}

func ask(connection net.Conn, kind string, every time.Duration) {
	if kind == "pushed" {
		_, _ = fmt.Fprintln(connection, push)
		return
	}
	for range time.Tick(every) {
		_, _ = fmt.Fprintln(connection, "who")
	}
}

func watch(target string, last *atomic.Int64, timeout time.Duration) {
	for range time.Tick(timeout) {
		now := time.Now().UnixMicro()
		if silent := now - last.Load(); silent >= timeout.Microseconds() {
			say(event{Target: target, Began: now - silent, Ended: now, Why: "silence"})
		}
	}
}

func reason(err error) string {
	var network net.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &network) && network.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	}
	return err.Error()
}
