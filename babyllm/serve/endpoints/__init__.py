"""The handlers of the endpoints, by group; `app.endpoints` is the table of them."""
