"""Configuration: what a run may be told, from Hydra's tree to frozen dataclasses. Every value stands in `conf/`."""
