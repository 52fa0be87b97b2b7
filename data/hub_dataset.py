def is_dataset_folder(path):
    return False
