"""What the processes of the demo's stages are forked with: importing this is the work that they need not do.

`demo_run` names it to Python's fork server, which imports it once.
"""

from videor2_rl.app import quiet_logging

# Before the imports: some of the libraries speak while they are imported.
quiet_logging()

import transformers.models.auto.tokenization_auto  # noqa: E402, F401
import verl.single_controller.ray.base  # noqa: E402, F401

import workers.build  # noqa: E402
import workers.learner.rank  # noqa: E402, F401
