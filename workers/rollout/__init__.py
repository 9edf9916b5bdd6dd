"""vLLM: what an engine is given, the worker around it, the pool of workers."""
