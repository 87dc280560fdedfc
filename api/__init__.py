"""The REST API: OpenAI's Files, Vector Stores, Responses, Chat and Embeddings, over FastAPI.

app.py            puts the application together; nothing happens on import
service.py        what the routes work with, made once for a process
routes_*.py       one file for each group of routes, thin
schemas_*.py      what comes in and goes out, as pydantic models
described.py      what /openapi.json says beyond what FastAPI knows
examples.py       an example of every body
access.py         who asks, and what they may do
cors.py           which other sites' pages may ask
admission.py      how many and how large requests may be
observing.py      request ids, logs, metrics, security headers
tracing.py        OpenTelemetry, where the environment asks for it
health.py         the container's health check
faults.py         what the log may hold of a fault
upkeep.py         what is cleared away now and then
long.py           long answers, written in worker threads
batching.py       searches of many requests in one
errors.py         one table from exception to status
cli.py            `youju serve` and `youju keys`
"""
