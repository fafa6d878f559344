"""The HTTP protocol of Inngest's official SDKs: signatures, requests, replies. Pure
functions, without I/O."""
