"""Labels of records: task, difficulty, quality, language and safety, by rules, a judge or classifiers."""
