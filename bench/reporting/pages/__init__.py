"""Pages of a report: Markdown, and HTML with interactive charts."""
