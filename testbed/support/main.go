// What a cluster without cloud and without uplink still needs: volumes, and reach from the host.
//
// It runs in the control plane's network namespace. The volumes are directories on the machine's own
// disk; the forwards listen on the host's loopback and connect from inside the namespace.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "support:", err)
		os.Exit(1)
	}
}

func run() error {
	kubeconfig := flag.String("kubeconfig", "", "admin kubeconfig, valid inside the namespace")
	root := flag.String("root", "", "the test cluster's directory; a node's volumes are in ROOT/<node>/volumes")
	hostNetns := flag.String("host-netns", "/proc/1/ns/net", "network namespace to listen in")
	apiListen := flag.String("api-listen", "127.0.0.1:6443", "host address of the API server's forward")
	apiTarget := flag.String("api-target", "", "the API server's address inside the namespace")
	nodePortTarget := flag.String("nodeport-target", "", "address inside the namespace that answers every NodePort")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	host, err := os.Open(*hostNetns)
	if err != nil {
		return fmt.Errorf("open the host's network namespace: %w", err)
	}
	forwards := newForwards(host)
	if err := forwards.open(*apiListen, *apiTarget); err != nil {
		return err
	}

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 50, 100
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	go provisionVolumes(ctx, client, *root)
	forwards.followNodePorts(ctx, client, *nodePortTarget)
	return nil
}
