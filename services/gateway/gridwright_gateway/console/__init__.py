"""The console: web pages about the grid. Nothing depends on it; if it is down, no build notices."""
