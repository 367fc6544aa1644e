package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	// What a client writes to be spoken to from then on.
	push      = "push"
	pushEvery = 20 * time.Millisecond
)

func serve(addresses []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	failed := make(chan error)
	for _, address := range addresses {
		listener, err := net.Listen("tcp4", address)
		if err != nil {
			return err
		}
		packets, err := net.ListenPacket("udp4", address)
		if err != nil {
			return err
		}
		go func() { failed <- serveTCP(listener, name) }()
		go func() { failed <- serveUDP(packets, name) }()
	}
	return <-failed
}

func serveTCP(listener net.Listener, name string) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(connection, name)
	}
}

// The name of the pod for each line.
func answer(connection net.Conn, name string) {
	defer connection.Close()
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		for {
			if _, err := fmt.Fprintln(connection, name); err != nil {
				return
			}
			if lines.Text() != push {
				break
			}
			time.Sleep(pushEvery)
		}
	}
}

func serveUDP(packets net.PacketConn, name string) error {
	buffer := make([]byte, 64)
	for {
		_, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return err
		}
		// An answer that a policy refuses is an error of this one peer.
		_, _ = packets.WriteTo([]byte(name), from)
	}
}
