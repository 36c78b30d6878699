"""Work in several steps that needs others: generators that yield needs and end with a verdict."""
