"""The report: one self-contained HTML page and report.json, from a demo's folder or a single run's."""
