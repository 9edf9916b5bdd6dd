"""From the learner to the rollout engines: weights with a version, all their names and a checksum."""
