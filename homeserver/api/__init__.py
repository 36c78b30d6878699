"""Between the wire and the services: one module for each section of the specification, without SQL or algorithms."""
