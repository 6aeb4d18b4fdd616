"""Training at reduced resolution (Wald's protocol)."""
