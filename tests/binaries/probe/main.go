// Servers and clients that tell which connections succeed, one JSON object a line.
//
//	probe pause                              does nothing; the first process of a pod
//	probe serve ADDRESS...                   answers on TCP and UDP
//	probe try TIMEOUT KIND/ADDRESS...        tries each once, all at a time
//	probe follow KIND/ADDRESS EVERY TIMEOUT  goes on until its standard input ends
//
// Kinds: tcp (a new connection and an answer over it), connect (a new connection alone), udp (a datagram and its answer); to follow
// also held (one connection, a question each time), pushed (one connection, over which the server speaks unasked) and datagram (one
// socket, a question each time).
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// What became of one attempt. Times are microseconds since 1970: the clock is the node's, thus everyone's on one machine.
type event struct {
	Target string `json:"target"`
	Began  int64  `json:"began"`
	Ended  int64  `json:"ended"`
	OK     bool   `json:"ok"`
	By     string `json:"by,omitempty"`
	Why    string `json:"why,omitempty"`
}

var output struct {
	sync.Mutex
	*json.Encoder
}

func say(e event) {
	output.Lock()
	defer output.Unlock()
	_ = output.Encode(e)
}

func main() {
	output.Encoder = json.NewEncoder(os.Stdout)
	go endOnSignal(len(os.Args) > 1 && os.Args[1] == "serve")
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(2)
	}
}

// The first process of a container gets no signal that it doesn't ask for. A server goes on until no Service sends to it any more, as
// well-behaved ones do: kube-proxy gathers changes for a second.
func endOnSignal(serves bool) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	if serves {
		time.Sleep(2 * time.Second)
	}
	os.Exit(0)
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 1 && arguments[0] == "pause":
		for {
			time.Sleep(time.Hour)
		}
	case len(arguments) > 1 && arguments[0] == "serve":
		return serve(arguments[1:])
	case len(arguments) > 2 && arguments[0] == "try":
		timeout, err := time.ParseDuration(arguments[1])
		if err != nil {
			return err
		}
		return tryAll(arguments[2:], timeout)
	case len(arguments) == 4 && arguments[0] == "follow":
		every, err := time.ParseDuration(arguments[2])
		if err != nil {
			return err
		}
		timeout, err := time.ParseDuration(arguments[3])
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		return follow(arguments[1], every, timeout)
	}
	return fmt.Errorf("can't read the arguments %q", arguments)
}

func split(target string) (kind, address string, err error) {
	kind, address, found := strings.Cut(target, "/")
	if !found {
		return "", "", fmt.Errorf("%q is not KIND/ADDRESS", target)
	}
	return kind, address, nil
}
