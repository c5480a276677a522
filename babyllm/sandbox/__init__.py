"""Running SQL that nobody has read: one query on one SQLite file, read-only, within limits; and comparing its rows.

Sandbox.query(file, sql) -> worker process (sql_worker) -> QueryResult: columns and rows, or the reason for none
query_match(sandbox, files, prediction, expected) -> does the prediction return the expected rows?
score_predictions(file, databases) -> execution accuracy of a file of predictions
"""

from babyllm.sandbox.execution import Match, query_match
from babyllm.sandbox.sql import QueryLimits, QueryResult, Sandbox
from babyllm.sandbox.sql_scores import SqlScores, score_predictions

__all__ = ["Match", "QueryLimits", "QueryResult", "Sandbox", "SqlScores", "query_match", "score_predictions"]
