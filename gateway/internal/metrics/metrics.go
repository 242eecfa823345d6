// Package metrics tells Prometheus what a gateway does. Labels have few values, whatever clients send.
package metrics

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.com/predserver/gateway/internal/access"
	"example.com/predserver/gateway/web"
)

var seconds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

// Metrics counts requests.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	refusals *prometheus.CounterVec
	took     *prometheus.HistogramVec
	backend  prometheus.Histogram
}

// New returns metrics that have counted nothing yet.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_requests_total", Help: "requests that ended",
		}, []string{"route", "status", "code"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_refusals_total", Help: "requests that were too large, or too many at once",
		}, []string{"reason"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gateway_request_seconds", Help: "time of a request, from its header to the end of its reply", Buckets: seconds,
		}, []string{"route"}),
		backend: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gateway_backend_seconds", Help: "of it, the call of the prediction server", Buckets: seconds,
		}),
	}
	m.registry.MustRegister(m.requests, m.refusals, m.took, m.backend,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Observe counts a request that has ended.
func (m *Metrics) Observe(e web.Ended) {
	m.requests.WithLabelValues(e.Route, strconv.Itoa(e.Status), e.Code).Inc()
	m.took.WithLabelValues(e.Route).Observe(e.Took.Seconds())
	if e.Backend > 0 {
		m.backend.Observe(e.Backend.Seconds())
	}
	if e.Reason == "OVERLOADED" || e.Reason == "TOO_LARGE" { // a prediction server may have any others
		m.refusals.WithLabelValues(e.Reason).Inc()
	}
}

// Watch tells, from now on, what a handler has to do at the moment; and of the certificate and the tokens, which may be nil.
func (m *Metrics) Watch(load func() web.Load, certificate *access.Certificate, tokens *access.Tokens) {
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
	}
	gauge("gateway_requests_in_flight", "requests for which the prediction server is asked", nil,
		func() float64 { return float64(load().Requests) })
	gauge("gateway_bytes_held", "bytes that all requests hold together", nil, func() float64 { return float64(load().Held) })
	const limit, ofLimits = "gateway_limit", "the limits, by their flags"
	gauge(limit, ofLimits, prometheus.Labels{"limit": "max_requests_in_flight"}, func() float64 { return float64(load().MaxRequests) })
	gauge(limit, ofLimits, prometheus.Labels{"limit": "max_bytes_held"}, func() float64 { return float64(load().MaxHeld) })
	const broken, ofFiles = "gateway_files_broken", "1 for files that changed for the worse"
	if certificate != nil {
		gauge("gateway_certificate_not_after_seconds", "when the certificate expires, in Unix time", nil,
			func() float64 { return float64(certificate.Leaf().NotAfter.Unix()) })
		gauge(broken, ofFiles, prometheus.Labels{"files": "certificate"}, func() float64 { return number(certificate.Broken()) })
	}
	if tokens != nil {
		gauge(broken, ofFiles, prometheus.Labels{"files": "tokens"}, func() float64 { return number(tokens.Broken()) })
	}
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// Server returns an HTTP server of the metrics.
func (m *Metrics) Server(log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
