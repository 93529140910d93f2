"""How much training on a row helps a query; one engine for rebalancing and attribution."""
