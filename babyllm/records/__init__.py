"""Looking through and mending JSON lines in a browser: an index of the files, a log of edits, a server, a page."""
