"""The HTTPS API. The only package that knows FastAPI; asyncio lives here and nowhere else."""
