"""Parts of the soak binary: lives of a run, damage between them, and the judgement of what comes of both."""
