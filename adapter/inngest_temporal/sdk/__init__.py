"""What apps of Inngest's official SDKs speak over HTTP: signatures, requests, replies. Pure
functions, without I/O."""
