module preheat.dev/cluster/kinds

go 1.26

// Nothing is built of these: their CustomResourceDefinitions are what the chart's monitors and certificates are held against.
require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
