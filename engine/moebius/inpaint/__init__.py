"""One run, in the order it happens: settings, draws, the loaded model, the run stage by stage, its result."""
