"""A registry of data sets: names for files of chats and for how they are read.

data/datasets.yaml -> DataSetEntry (`registry_file`) -> DataSet (`data_set`) -> the files of a run
"""
