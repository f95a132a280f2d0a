"""One evaluation as a page that needs nothing beside it, and its figures as files."""
