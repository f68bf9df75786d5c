"""The record of a run for MLflow.

Records flow in one direction, so that neither a slow server nor a crash can stop a training or lose a record:

    Tracker ──append──> RunJournal ──read──> Uploader ──requests──> MlflowStore ──> MLflow
    (training)          (outbox/ of the      (in the thread of
                         run folder)          an UploadWorker)

`tracker`         what training calls: parameters, metrics, tags, files, figures, the end of the run
`journal`         the records on disk, and the position up to which the server has them
`uploader`        sends the records of one journal, in their order, each once
`upload_worker`   the thread that runs the uploader while the run continues
`resync`          later calls upload what earlier runs left in their journals
`mlflow_store`    the requests to MLflow; the only file that imports it
`database`        MLflow's SQLite file: created whole, and corrected after a move
"""
