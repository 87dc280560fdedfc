"""From bytes to chunks: find files, parse them behind a fence, cut them up, store them."""
