// Sends the requests of a file to a server with the connections that the API server keeps to a webhook, and says how long
// each took. Reads {"method", "path", "type", "body"} a line; prints one JSON document.
//
//	requests -to URL [-authority FILE] [-name NAME] [-token TOKEN] [-rate N | -at-once N] [-expect TEXT] FILE
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

var (
	to        = flag.String("to", "", "the server's URL")
	authority = flag.String("authority", "", "a PEM file: who vouches for the server")
	name      = flag.String("name", "", "the server's name in its certificate, where it is not that of the URL")
	token     = flag.String("token", "", "who asks")
	rate      = flag.Float64("rate", 0, "requests a second, whether earlier ones are answered or not")
	atOnce    = flag.Int("at-once", 1, "requests under way, without a rate")
	expect    = flag.String("expect", "", "what a good answer holds")
	patience  = flag.Duration("patience", 60*time.Second, "after which a request has failed")
)

type request struct {
	Method, Path, Type string
	Body               json.RawMessage
}

type report struct {
	Seconds   []float64      `json:"seconds"` // of each request, in the file's order; since its turn came, where there is a rate
	Failures  map[string]int `json:"failures"`
	Elapsed   float64        `json:"elapsed"`
	Processor float64        `json:"processor"` // seconds of this process
}

func main() {
	flag.Parse()
	requests, client := read(flag.Arg(0)), client()
	told := report{Seconds: make([]float64, len(requests)), Failures: map[string]int{}}
	var lock sync.Mutex
	one := func(i int, since time.Time) {
		err := send(client, requests[i])
		told.Seconds[i] = time.Since(since).Seconds()
		if err != nil {
			lock.Lock()
			told.Failures[err.Error()]++
			lock.Unlock()
		}
	}
	began := time.Now()
	if *rate > 0 {
		steadily(len(requests), began, one)
	} else {
		inTurns(len(requests), one)
	}
	told.Elapsed = time.Since(began).Seconds()
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	told.Processor = float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
	check(json.NewEncoder(os.Stdout).Encode(told))
}

// steadily begins each request at its time and counts from there: who waits for a late server would not see it.
func steadily(count int, began time.Time, one func(int, time.Time)) {
	var all sync.WaitGroup
	for i := range count {
		turn := began.Add(time.Duration(float64(i) / *rate * float64(time.Second)))
		time.Sleep(time.Until(turn))
		all.Add(1)
		go func() {
			defer all.Done()
			one(i, turn)
		}()
	}
	all.Wait()
}

func inTurns(count int, one func(int, time.Time)) {
	var all sync.WaitGroup
	next := make(chan int, count)
	for i := range count {
		next <- i
	}
	close(next)
	for range *atOnce {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := range next {
				one(i, time.Now())
			}
		}()
	}
	all.Wait()
}

func send(client *http.Client, asked request) error {
	message, err := http.NewRequest(asked.Method, *to+asked.Path, bytes.NewReader(asked.Body))
	if err != nil {
		return err
	}
	message.Header.Set("Content-Type", asked.Type)
	if *token != "" {
		message.Header.Set("Authorization", "Bearer "+*token)
	}
	answer, err := client.Do(message)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= 300 || !bytes.Contains(body, []byte(*expect)) {
		return fmt.Errorf("%d: %.300s", answer.StatusCode, body)
	}
	return nil
}

// client is what k8s.io/client-go makes for a webhook.
func client() *http.Client {
	trust := &tls.Config{ServerName: *name}
	if *authority != "" {
		pem, err := os.ReadFile(*authority)
		check(err)
		trust.RootCAs = x509.NewCertPool()
		trust.RootCAs.AppendCertsFromPEM(pem)
	}
	transport := &http.Transport{
		TLSClientConfig:     trust,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 25,
		TLSHandshakeTimeout: 10 * time.Second,
	}
	return &http.Client{Transport: transport, Timeout: *patience}
}

func read(path string) (found []request) {
	file, err := os.Open(path)
	check(err)
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var one request
		check(json.Unmarshal(lines.Bytes(), &one))
		found = append(found, one)
	}
	check(lines.Err())
	return found
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
