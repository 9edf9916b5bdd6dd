"""Does a response rest on the video? Measured on the model itself, without a judge: attention and interventions."""
