"""The catalog: models, sources, offers with prices, aliases."""
