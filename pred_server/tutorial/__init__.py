"""What the lessons stand on: server processes for notebooks, the article, the stubs."""
