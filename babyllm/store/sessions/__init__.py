"""Sessions that a server has stored: files of answers and ratings in lines of JSON, and how turns are joined."""
