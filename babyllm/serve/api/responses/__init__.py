"""POST /v1/responses, and the responses that the server keeps so that later requests can continue them."""
