"""Images in, class names out: preprocessing, labels, and the predictions of a network."""
