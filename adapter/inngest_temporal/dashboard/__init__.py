"""The dashboard: pages over what Temporal knows, served by the ingress.

They are rendered here; one that is open asks for its live part again.
"""
