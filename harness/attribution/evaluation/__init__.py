"""How good the attribution is, and how good the model: retraining, answers, benchmarks."""
