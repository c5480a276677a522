"""The sample set for text-to-SQL: small databases, and questions about them with the queries that answer them."""
