"""Tables of a report: columns and cells, summaries, studies, published rows, captions."""
