package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// dialTimeout bounds how long a connection from the host may wait for its far end.
const dialTimeout = 5 * time.Second

// forwards are the listeners on the host's loopback, by their address.
type forwards struct {
	host      *os.File
	mu        sync.Mutex
	listeners map[string]net.Listener
}

func newForwards(host *os.File) *forwards {
	return &forwards{host: host, listeners: map[string]net.Listener{}}
}

// open starts to forward connections on the host address `listen` to `target` inside the namespace.
func (f *forwards) open(listen, target string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, exists := f.listeners[listen]; exists {
		return nil
	}
	listener, err := f.listenOnHost(listen)
	if err != nil {
		return fmt.Errorf("listen on the host's %s: %w", listen, err)
	}
	f.listeners[listen] = listener
	log.Printf("%s on the host leads to %s", listen, target)
	go serve(listener, target)
	return nil
}

func (f *forwards) close(listen string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if listener, exists := f.listeners[listen]; exists {
		listener.Close()
		delete(f.listeners, listen)
		log.Printf("%s on the host is closed", listen)
	}
}

// listenOnHost creates the socket in the host's network namespace. A socket stays in the namespace of the
// thread that created it, so one thread goes there and is never used again: it ends with its goroutine,
// because the goroutine keeps it locked.
func (f *forwards) listenOnHost(address string) (net.Listener, error) {
	type result struct {
		listener net.Listener
		err      error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(f.host.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, fmt.Errorf("enter the host's network: %w", err)}
			return
		}
		listener, err := net.Listen("tcp4", address)
		done <- result{listener, err}
	}()
	r := <-done
	return r.listener, r.err
}

func serve(listener net.Listener, target string) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		go join(near.(*net.TCPConn), target)
	}
}

// join copies both ways until both have ended; an end of one direction is passed on as such.
func join(near *net.TCPConn, target string) {
	defer near.Close()
	connection, err := net.DialTimeout("tcp4", target, dialTimeout)
	if err != nil {
		log.Printf("%s: %v", target, err)
		return
	}
	far := connection.(*net.TCPConn)
	defer far.Close()
	var both sync.WaitGroup
	both.Go(func() { io.Copy(far, near); far.CloseWrite() })
	both.Go(func() { io.Copy(near, far); near.CloseWrite() })
	both.Wait()
}

// followNodePorts keeps 127.0.0.1:<nodePort> open on the host for every TCP NodePort, until ctx ends.
func (f *forwards) followNodePorts(ctx context.Context, client kubernetes.Interface, target string) {
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services().Informer()
	update := func(old, new any) {
		kept := map[int32]bool{}
		for _, port := range nodePorts(new) {
			kept[port] = true
			address := fmt.Sprintf("127.0.0.1:%d", port)
			if err := f.open(address, fmt.Sprintf("%s:%d", target, port)); err != nil {
				log.Print(err)
			}
		}
		for _, port := range nodePorts(old) {
			if !kept[port] {
				f.close(fmt.Sprintf("127.0.0.1:%d", port))
			}
		}
	}
	services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { update(nil, object) },
		UpdateFunc: update,
		DeleteFunc: func(object any) {
			if gone, missed := object.(cache.DeletedFinalStateUnknown); missed {
				object = gone.Obj
			}
			update(object, nil)
		},
	})
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
}

func nodePorts(object any) []int32 {
	service, ok := object.(*corev1.Service)
	if !ok {
		return nil
	}
	var ports []int32
	for _, port := range service.Spec.Ports {
		if port.NodePort != 0 && port.Protocol == corev1.ProtocolTCP {
			ports = append(ports, port.NodePort)
		}
	}
	return ports
}
