/* attention_prompt_sm90_bf16.cu - attention of prompts in bf16. */
#include "attention_prompt_sm90.cuh"

struct prompt_kernel prompt_sm90_bf16(int head_dim, bool wide)
{
    return prompt_sm90_for<DTYPE_BF16>(head_dim, wide);
}
