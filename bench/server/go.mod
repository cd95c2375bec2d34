module preheat.dev/bench/server

go 1.24
