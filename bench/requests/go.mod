module preheat.dev/bench/requests

go 1.24
