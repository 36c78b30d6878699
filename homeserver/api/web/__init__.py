"""What a browser, a load balancer and Prometheus ask for: the page at `/`, health, metrics."""
