// The servers of the benchmarks: files by ranges over sendfile, a relay that makes loopback behave like a store far away,
// and one that spreads connections.
//
//	server files FOLDER PORT
//	server relay HOST:PORT PORT FIRST_BYTE BYTES_PER_SECOND
//	server balance PORT FILE
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	switch {
	case len(os.Args) == 4 && os.Args[1] == "files":
		log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[3], files(os.Args[2])))
	case len(os.Args) == 6 && os.Args[1] == "relay":
		wait, err := time.ParseDuration(os.Args[4])
		check(err)
		rate, err := strconv.ParseFloat(os.Args[5], 64)
		check(err)
		relay(os.Args[2], "127.0.0.1:"+os.Args[3], wait, rate)
	case len(os.Args) == 4 && os.Args[1] == "balance":
		balance("127.0.0.1:"+os.Args[2], os.Args[3])
	default:
		log.Fatal("usage: server files FOLDER PORT | relay HOST:PORT PORT FIRST_BYTE BYTES_PER_SECOND | balance PORT FILE")
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// files answers GET and HEAD with ranges, If-Match and an ETag: without a dash, behind which clients of S3 look for parts.
func files(folder string) http.Handler {
	return http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		file, err := os.Open(filepath.Join(folder, filepath.Base(request.URL.Path)))
		if err != nil {
			http.NotFound(answer, request)
			return
		}
		defer file.Close()
		facts, err := file.Stat()
		if err != nil {
			http.Error(answer, err.Error(), http.StatusInternalServerError)
			return
		}
		answer.Header().Set("ETag", fmt.Sprintf(`"%x.%x"`, facts.ModTime().UnixNano(), facts.Size()))
		answer.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(answer, request, "", facts.ModTime(), file)
	})
}

// relay passes each request on after `wait` and each answer at no more than `rate` bytes a second of its connection.
func relay(target, address string, wait time.Duration, rate float64) {
	listener, err := net.Listen("tcp", address)
	check(err)
	for {
		client, err := listener.Accept()
		check(err)
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			defer server.Close()
			go func() {
				defer server.Close()
				ask(server, client, wait)
			}()
			pace(client, server, rate)
		}()
	}
}

// ask waits where a request begins: at the first bytes after a pause, for a request may come in several.
func ask(server, client net.Conn, wait time.Duration) {
	buffer := make([]byte, 64<<10)
	var last time.Time
	for {
		count, err := client.Read(buffer)
		if count > 0 {
			if time.Since(last) > wait/10 {
				time.Sleep(wait)
			}
			last = time.Now()
			if _, failed := server.Write(buffer[:count]); failed != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pace splices pieces of an answer; a connection that was idle has saved up nothing.
func pace(client, server net.Conn, rate float64) {
	var free time.Time // when the bytes sent so far would have arrived
	for {
		count, err := io.CopyN(client, server, 128<<10)
		if count > 0 {
			if now := time.Now(); free.Before(now.Add(-20 * time.Millisecond)) {
				free = now
			}
			free = free.Add(time.Duration(float64(count) / rate * float64(time.Second)))
			time.Sleep(time.Until(free))
		}
		if err != nil {
			return
		}
	}
}

// balance gives each connection to the next of the ports that a file lists then: what kube-proxy does for a Service.
func balance(address, list string) {
	listener, err := net.Listen("tcp", address)
	check(err)
	for turn := 0; ; turn++ {
		client, err := listener.Accept()
		check(err)
		text, err := os.ReadFile(list)
		check(err)
		ports := strings.Fields(string(text))
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", "127.0.0.1:"+ports[turn%len(ports)])
			if err != nil {
				return
			}
			defer server.Close()
			go func() {
				defer server.Close()
				io.Copy(server, client)
			}()
			io.Copy(client, server)
		}()
	}
}
