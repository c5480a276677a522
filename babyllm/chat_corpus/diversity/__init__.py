"""How varied conversations are: counts that add up over files, a report, and warnings where the data say the same.

conversations -> gather.diversity_of -> totals.Diversity (adds up) -> diversity_report.report_of -> Report
"""
