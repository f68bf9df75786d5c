"""The errors that the project raises on purpose, and the helpers that write their messages.

BaseRewardError
├── RecipeError          a recipe, an override or a name in a recipe is wrong; has the list of all faults
├── DataError            a row, a file or an image cannot be used
│   └── TooManyRowsLost  more rows were rejected than `data.max_lost` allows
├── ModelError           a folder is not a model, or its weights do not fit
│   └── SilentError      an endpoint does not answer, or refuses every request
├── TrainingError        training cannot continue
│   ├── NotFiniteError   a loss or a gradient is NaN or infinite
│   ├── CheckpointError  a checkpoint cannot be written or read
│   └── RankError        another process of a run on several devices has failed or was killed
├── RunError             a run does not exist, or cannot be continued
├── ClusterError         a cluster cannot be reached, or has not what is asked for
