"""A report as one page: Markdown, and HTML with interactive charts."""
