"""What the server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

SECONDS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "earsight_requests", "Requests answered.", ("path", "status"), registry=self.registry
        )
        self.latency = Histogram(
            "earsight_request_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.audio = Counter("earsight_audio_seconds", "Audio recognised.", registry=self.registry)
        self.in_flight = Gauge("earsight_requests_in_flight", "Requests at work.", registry=self.registry)
        self.queued = Gauge(
            "earsight_queued_audio_seconds", "Audio that waits or is worked on.", registry=self.registry
        )
        self.waiting = Gauge(
            "earsight_waiting_recordings", "Recordings that wait for the engine.", registry=self.registry
        )
        self.batch = Histogram(
            "earsight_batch_utterances",
            "Utterances decoded together.",
            buckets=(1, 2, 3, 4, 6, 8, 12, 16),
            registry=self.registry,
        )
        self.busy = Counter(
            "earsight_engine_busy_seconds", "Time that the engine worked.", registry=self.registry
        )

    def serve(self, address: str, port: int) -> None:
        """Answer `GET /metrics` on a port of its own, from a thread of its own."""
        start_http_server(port, addr=address, registry=self.registry)
