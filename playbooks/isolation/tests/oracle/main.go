// Answers for clusters on standard input, one JSON object a line, which connections cyclonus' model of NetworkPolicy lets through.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

type cluster struct {
	Namespaces map[string]map[string]string  `json:"namespaces"`
	Pods       map[string]pod                `json:"pods"`
	Policies   []*networkingv1.NetworkPolicy `json:"policies"`
	Queries    []query                       `json:"queries"`
}

type pod struct {
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
	IP        string            `json:"ip"`
}

// From and To are names of pods, or addresses outside the cluster.
type query struct {
	From     string          `json:"from"`
	To       string          `json:"to"`
	Protocol corev1.Protocol `json:"protocol"`
	Port     int             `json:"port"`
	PortName string          `json:"portName"`
}

type verdict struct {
	Egress  bool `json:"egress"`
	Ingress bool `json:"ingress"`
}

func (c *cluster) peer(name string) *matcher.TrafficPeer {
	pod, ok := c.Pods[name]
	if !ok {
		return &matcher.TrafficPeer{IP: name}
	}
	return &matcher.TrafficPeer{
		IP: pod.IP,
		Internal: &matcher.InternalPeer{
			PodLabels:       pod.Labels,
			NamespaceLabels: c.Namespaces[pod.Namespace],
			Namespace:       pod.Namespace,
		},
	}
}

func (c *cluster) answer() []verdict {
	policy := matcher.BuildNetworkPolicies(false, c.Policies)
	verdicts := make([]verdict, 0, len(c.Queries))
	for _, query := range c.Queries {
		traffic := &matcher.Traffic{
			Source:           c.peer(query.From),
			Destination:      c.peer(query.To),
			ResolvedPort:     query.Port,
			ResolvedPortName: query.PortName,
			Protocol:         query.Protocol,
		}
		result := policy.IsTrafficAllowed(traffic)
		verdicts = append(verdicts, verdict{Egress: result.Egress.IsAllowed(), Ingress: result.Ingress.IsAllowed()})
	}
	return verdicts
}

func run() error {
	input := bufio.NewReaderSize(os.Stdin, 1<<20)
	output := bufio.NewWriter(os.Stdout)
	defer output.Flush()
	decoder, encoder := json.NewDecoder(input), json.NewEncoder(output)
	for decoder.More() {
		var c cluster
		if err := decoder.Decode(&c); err != nil {
			return err
		}
		if err := encoder.Encode(c.answer()); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
