"""The dashboard: pages over what Temporal knows, served by the ingress.

They are rendered on the server; an open page requests its live part again and again.
"""
