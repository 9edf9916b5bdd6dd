"""This project's reward in other trainers: TRL and verl. Imports neither."""
